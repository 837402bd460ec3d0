/* conv.h - short convolutions in the place of attention (Liquid AI 2025, "LFM2"). */
#ifndef LINNET_CONV_H
#define LINNET_CONV_H

#include "workspace.h"

/* What the convolution of a layer makes of h goes to y [n_tokens][dim]. */
void ln_conv_run(ln_workspace *workspace, int32_t layer, float *y);

#endif
