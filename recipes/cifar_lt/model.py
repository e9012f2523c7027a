"""ResNet-32 for small images, the 0.46 M parameter network of the long-tailed literature (He et al., CVPR 2016)."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A: subsample, pad new channels with zeros)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))
        return F.relu(out + x, inplace=True)


class ResNet(nn.Module):
    """A CIFAR ResNet of depth 6n + 2; inputs [N, in_channels, H, W], logits [N, num_classes]."""

    def __init__(self, num_classes: int, depth: int = 32, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, width = [], 16
        for channels in (16, 32, 64):
            for _ in range((depth - 2) // 6):
                blocks.append(BasicBlock(width, channels, stride=2 if channels != width else 1))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(width, num_classes)
        # Manifold mixup mixes the input or the output of one of the first two stages.
        stage = len(blocks) // 3
        self.mixing_layers = ("input", f"blocks.{stage - 1}", f"blocks.{2 * stage - 1}")
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def features(self, x: Tensor) -> Tensor:
        """What the classifier sees, [N, 64]."""
        return self.blocks(F.relu(self.bn1(self.conv1(x)), inplace=True)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


@dataclass
class ModelSettings:
    """What can be said of the network."""

    depth: Literal[8, 14, 20, 32, 44, 56] = 32
    """Layers of the ResNet, 6n + 2; 32 everywhere in the literature."""

    @property
    def model_name(self) -> str:
        """Name of the network in run folders; none for the usual one."""
        return "" if self.depth == 32 else f"resnet{self.depth}"


def build_model(num_classes: int, cfg: Any, data: Any) -> nn.Module:
    """The network of the settings. Replace it by your own: anything that ends in a linear layer `fc` or `head`."""
    return ResNet(num_classes, cfg.depth, in_channels=data.preprocessing["size"][-1])
