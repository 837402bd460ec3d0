"""Using a model: generating text, and measuring what that costs."""
