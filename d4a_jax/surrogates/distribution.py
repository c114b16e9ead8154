"""Distribution matching (DM, Zhao & Bilen 2023): images with the real mean features.

    L_c = || mean psi(A*_w(S_k,c)) - mean psi(A_w(B_c)) ||^2 + lambda Reg_c

with psi the embedding of a network, for DM a fresh random one in every step
(`inner_iterations` 1). With the maps of all stages (`matching.features` "layers") and
a network that is trained on real images it is the feature matching of IDC.

D4A's regularizers take their natural form when gradients are replaced by mean
features: with mu(X) = mean psi(A(X)), `previous` is ||mu(S_k) - mu(S_<k)||^2, `anchor`
||mu(S_k) - mu(B)||^2 and `union`

    || (n_<k mu(S_<k) + n_k mu(S_k)) / (n_<k + n_k) - mu(B) ||^2,

the distance of the union's mean embedding from that of the whole class: B is drawn
from all real images of the class, the first term's B_c from those that the filter kept.
`conflict` compares directions of mu; `replay`, a step of training, has no such form.
"""

from d4a_jax.surrogates.base import Surrogate, SurrogateContext
from d4a_jax.surrogates.class_matching import class_matching
from d4a_jax.surrogates.statistics import feature_statistic


def distribution_matching(context: SurrogateContext) -> Surrogate:
    """Builds the surrogate of DM and of feature matching with D4A's regularizer."""
    return class_matching(context, feature_statistic)
