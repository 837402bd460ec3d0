"""Keys of GGUF files that a chat needs; apart, so that it need not load what reads whole files."""

from __future__ import annotations

# What ends an answer beside EOS: the end of a turn, of a message that goes on later, and (of
# no other program) all tokens that generation_config.json names.
EOT_KEY, EOM_KEY = "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"
END_IDS_KEY = "linnet.end_token_ids"
TEMPLATE_KEY = "tokenizer.chat_template"  # others are TEMPLATE_KEY.NAME
LEFT_OUT_KEY = "linnet.left_out"  # the parts of a model that its text does without, by name

# How hidden states become one vector: the key (after the architecture's name) that other readers know,
# a way that is not known here, whether vectors have length 1, and the longest text that was meant.
POOLING_KEY, POOLING_MODE_KEY = "pooling_type", "linnet.pooling_mode"
POOLING_TYPES = {1: "mean", 2: "cls", 3: "last"}  # by the numbers of POOLING_KEY, of which 0 says nothing
POOLING_RANK = 4  # of POOLING_KEY: a head scores texts
NORMALIZE_KEY, MAX_TEXT_KEY = "linnet.normalize", "linnet.max_text_tokens"
