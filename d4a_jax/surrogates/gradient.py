"""Gradient matching (DC, DSA, IDC; eq. 4): images that move a network like real ones.

    L_c = D(g_c(theta; A*_w(S_k,c)), g_c(theta; A_w(B_c))) + lambda Reg_c

with g_c(theta; X) the gradient of the mean cross-entropy of images X of class c. What
the network is trained on between the steps tells the methods apart: real images (IDC,
Kim et al. 2022), the synthetic images themselves (DC and DSA, Zhao et al. 2021, alg.
1), and before all else the earlier segments (PDD, Chen et al. 2024); see
`network_updates`.
"""

from d4a_jax.surrogates.base import Surrogate, SurrogateContext
from d4a_jax.surrogates.class_matching import class_matching
from d4a_jax.surrogates.statistics import gradient_statistic


def gradient_matching(context: SurrogateContext) -> Surrogate:
    """Builds the surrogate of DC, DSA, IDC and PDD with D4A's regularizer."""
    return class_matching(context, gradient_statistic)
