"""What a system declares: its stages, its builders, and the configuration that its weights depend on.

The declared configuration enters the hash of the stage `code` (`disdiff.runs.stages`). If a builder read a
key that its system does not declare, a change of that key would leave the hash as it is, and a stage trained
with the old value would be taken for the new one. Builders therefore get a view in which such a key cannot be
read.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

from disdiff.config.schema import CodeConfig, Config
from disdiff.method.model import ImageModel
from ldm.autoencoder.latent_space import LatentSpace
from ldm.nn.unet import UNet

if TYPE_CHECKING:
    from ldm.training.stage_task import StageTask

# what builders may read without declaring it: it is in the hash of every stage, or changes no weights
OUTSIDE_STAGES = {"seed", "stage_seed", "sampler", "weights"}


class UndeclaredKeyError(LookupError):
    """A builder read a configuration key that its system does not declare: a mistake in the code."""


@dataclass(frozen=True)
class SectionView:
    """Shows the declared keys of a configuration section.

    Attributes:
        _section: the section.
        _keys: dotted keys that may be read; a section's key stands for all keys in it.
        _reader: who reads, for the error message.
        _prefix: dotted key of the section with a final dot; empty for the whole configuration.
    """

    _section: Any
    _keys: Collection[str]
    _reader: str
    _prefix: str = ""

    def __getattr__(self, name: str) -> Any:
        """The value of the key `name`, or a view of a section of which only some keys are declared.

        Raises:
            UndeclaredKeyError: neither the key nor one inside it is declared.
        """
        value, key = getattr(self._section, name), f"{self._prefix}{name}"
        if key in self._keys:
            return value
        if any(other.startswith(f"{key}.") for other in self._keys):
            return replace(self, _section=value, _prefix=f"{key}.")
        raise UndeclaredKeyError(
            f"{self._reader} does not declare {key}, so its hash would miss a change of this key; add the "
            "key to the system's `sections` in disdiff/build.py"
        )


@dataclass(frozen=True)
class System:
    """What the pipeline needs to know about a system.

    Attributes:
        stages: names of the stages, in order.
        build_model: function of (configuration, latent space, untrained denoiser, image size) that returns
            the untrained model; None for a system that consists of shared stages only.
        build_task: function of (configuration, model, device) that returns the task of the stage `code`.
        sections: dotted configuration sections, besides `code`, on which the stage `code` depends.
        unread: keys of the section `code` on which the stage does not depend.
        has_gradient_fields: whether the code enters as gradient fields of a frozen denoiser.
    """

    stages: tuple[str, ...]
    build_model: Callable[[Config, LatentSpace, UNet, int], ImageModel] | None = None
    build_task: Callable[[Config, ImageModel, str], "StageTask"] | None = None
    sections: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    has_gradient_fields: bool = False

    @property
    def has_code(self) -> bool:
        """Whether the system has a code, and not shared stages only."""
        return "code" in self.stages

    @property
    def denoises(self) -> bool:
        """Whether the system has a U-Net on the latents."""
        return "latent_diffusion" in self.stages or self.depends_on("latent_diffusion.unet")

    def depends_on(self, section: str) -> bool:
        """Whether the stage `code` depends on a section besides `code`."""
        return section in self.sections

    def list_keys(self, stage: str) -> set[str]:
        """Dotted keys on which the weights of a stage depend, those of the stages below it included."""
        order = (*self.stages, "latent_dpm")
        keys = set(order[: order.index(stage) + 1])
        if "code" in keys:
            own = {f"code.{item.name}" for item in fields(CodeConfig) if item.name not in self.unread}
            keys = keys - {"code"} | own | set(self.sections)
        return keys

    def show_declared(self, config: Config, stage: str) -> Config:
        """A view of the configuration for the builders of a stage.

        Reading a key that the system does not declare raises `UndeclaredKeyError`.
        """
        keys = self.list_keys(stage) | OUTSIDE_STAGES
        return cast(Config, SectionView(config, keys, f"the stage {stage} of {config.system}"))
