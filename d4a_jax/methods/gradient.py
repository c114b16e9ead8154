"""Gradient matching (DC, DSA, IDC; eq. 4): images that move a network like real ones.

    L_c = D(g_c(theta; A*_w(S_k,c)), g_c(theta; A_w(B_c))) + lambda Reg_c

with g_c(theta; X) the gradient of the mean cross-entropy of images X of class c. The
training of the network between the steps tells the methods apart: on real images (IDC,
Kim et al. 2022), on the synthetic images themselves (DC and DSA, Zhao et al. 2021, alg.
1), and before all else on the earlier segments (PDD, Chen et al. 2024); see
`inner_networks`.
"""

import dataclasses

from d4a_jax.methods.base import Method, MethodOptions, Passes, Setting
from d4a_jax.methods.class_matching import Matching, class_matching
from d4a_jax.methods.statistics import gradient_statistic
from d4a_jax.options import option


@dataclasses.dataclass(frozen=True)
class GradientMatching(MethodOptions):
    """Options of gradient matching.

    Attributes:
      distance: D: squared differences ("mse", IDC), absolute ones ("l1"), or one minus
        the cosine of every output unit, summed ("cosine", DC).
      match_norm_and_bias: also match normalization parameters and biases.
      match_classifier: also match the kernel of the last, linear layer.
      union: match a segment together with the earlier ones (PDD).

    Example:
      >>> GradientMatching(distance="cosine").passes
      Passes(real=3, synthetic=7, constant=3)
    """

    distance: str = option("mse", choices=("mse", "l1", "cosine"))
    match_norm_and_bias: bool = False
    match_classifier: bool = False
    union: bool = False

    # Real and constant images take a forward and a whole backward pass; synthetic ones
    # that and the forward-mode pass along it.
    passes = Passes(real=3, synthetic=7, constant=3)

    @property
    def uses_previous(self) -> bool:
        return self.union

    def problems(self, config):
        if self.distance == "cosine" and self.match_norm_and_bias:
            yield (
                "method.match_norm_and_bias is True with method.distance 'cosine'; "
                "one-dimensional parameters have no direction per output unit, so it "
                "must be False."
            )

    def build(self, setting: Setting) -> Method:
        """The method of DC, DSA, IDC and PDD with D4A's regularizer."""

        def statistic(variables, label):
            return gradient_statistic(
                setting.network,
                variables,
                label,
                self.match_norm_and_bias,
                self.match_classifier,
            )

        return class_matching(Matching(setting, statistic, self.distance, self.union))
