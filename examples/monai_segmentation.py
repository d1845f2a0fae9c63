"""A segmentation loss called as those of MONAI are, for one of its networks.

    python examples/monai_segmentation.py

Discs on noise, whose rims have no label. Nothing is downloaded.
"""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from monai.networks.nets import BasicUNet

import losssearch as ls
from losssearch.adapters.monai import SegmentationLoss

FORMULA = "mean(ce + w * mean((1 - (2 * hits + 1) / (seen + there + 1))**2, 'c'), 'n', labelled)"


def discs(count: int, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 1, side, side) and labels alike: 1 in the disc, 255 on its rim, else 0."""
    place = torch.arange(side)
    at, radius = torch.randint(8, side - 8, (count, 2, 1, 1)), torch.randint(4, 8, (count, 1, 1))
    distance = ((place[:, None] - at[:, 0]) ** 2 + (place - at[:, 1]) ** 2).sqrt() - radius
    labels = (distance < 0).long().where(distance.abs() > 0.7, 255)[:, None]
    return (labels == 1) + 0.7 * torch.randn(labels.shape), labels


def main() -> None:
    torch.set_num_threads(1)  # tensors this small lose time to more
    torch.manual_seed(0)
    network = BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=(8, 8, 16, 16, 32, 8))
    program = ls.parse(
        FORMULA, space="segmentation", constants={"w": 2.0}
    )  # or a found one: result.best.program
    loss = SegmentationLoss(program, ignore_index=255)
    theirs = DiceLoss(softmax=True, to_onehot_y=True, ignore_index=255)  # called alike
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    x, y = discs(32)
    for _ in range(40):
        optimiser.zero_grad()
        loss(network(x), y).backward()
        optimiser.step()
    network.eval()
    x, y = discs(32)
    with torch.no_grad():
        print(f"{loss.formula}: {loss(network(x), y):.3f}; MONAI's Dice loss: {theirs(network(x), y):.3f}")


if __name__ == "__main__":
    main()
