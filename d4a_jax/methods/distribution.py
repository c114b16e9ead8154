"""Distribution matching (DM, Zhao & Bilen 2023): images with the real mean features.

    L_c = || mean psi(A*_w(S_k,c)) - mean psi(A_w(B_c)) ||^2 + lambda Reg_c

with psi the embedding of a network, for DM a fresh random one in every step
(`inner_iterations` 1). With the maps of all stages (`features` "layers") and a network
that is trained on real images it is the feature matching of IDC.

D4A's regularizers take their natural form when gradients are replaced by mean
features: with mu(X) = mean psi(A(X)), `previous` is ||mu(S_k) - mu(S_<k)||^2, `anchor`
||mu(S_k) - mu(B)||^2 and `union`

    || (n_<k mu(S_<k) + n_k mu(S_k)) / (n_<k + n_k) - mu(B) ||^2,

the distance of the union's mean embedding from that of the whole class: B is drawn
from all real images of the class, the first term's B_c from those that the filter kept.
`conflict` compares directions of mu; `replay`, a step of training, has no such form.
"""

import dataclasses

from d4a_jax.methods.base import Method, MethodOptions, Passes, Setting
from d4a_jax.methods.class_matching import Matching, class_matching
from d4a_jax.methods.features import feature_problems
from d4a_jax.methods.statistics import feature_statistic
from d4a_jax.options import option


@dataclasses.dataclass(frozen=True)
class DistributionMatching(MethodOptions):
    """Options of distribution matching.

    Attributes:
      distance: D of two tuples of mean features, "mse" or "l1".
      features: the "embedding" (DM), or the maps of all "layers" (IDC's features).
      union: match a segment together with the earlier ones (PDD).

    Example:
      >>> DistributionMatching(features="layers").passes.synthetic
      2
    """

    distance: str = option("mse", choices=("mse", "l1"))
    features: str = option("embedding", choices=("embedding", "layers"))
    union: bool = False

    # Features take a forward pass, synthetic images a backward pass as well.
    passes = Passes(real=1, synthetic=2, constant=1)

    @property
    def uses_previous(self) -> bool:
        return self.union

    def problems(self, config):
        return feature_problems(config)

    def build(self, setting: Setting) -> Method:
        """The method of DM and of feature matching with D4A's regularizer."""

        def statistic(variables, label):
            del label  # Features need none.
            return feature_statistic(setting.network, variables, self.features)

        return class_matching(Matching(setting, statistic, self.distance, self.union))
