"""Makes the cut-outs in this folder from Debian's package tuxpaint-stamps-default (GPL-2).

apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
python data/cutouts/prepare.py stamps/usr/share/tuxpaint/stamps

Each stamp is cropped to its object, reduced to at most 320 pixels, and kept only if the built-in
network names its class with a probability of at least 0.5 on a plain grey ground.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unioncam_lab.classifiers import load_classifier

STAMPS = {
    "animals/insects/Brown_slug": "slug",
    "animals/insects/Woodlouse": "isopod",
    "animals/insects/mantis": "mantis",
    "animals/mammals/rodents/squirrel": "fox squirrel",
    "animals/mammals/bears/european-bear": "brown bear",
    "animals/mammals/equines/zebra": "zebra",
    "animals/mammals/cats/tiger_sumatran": "tiger",
    "animals/mammals/aquatic/sea_lion": "sea lion",
    "animals/mammals/aquatic/otter": "otter",
    "animals/mammals/pig_golden": "hog",
    "animals/mammals/bovines/bull": "ox",
    "animals/marsupials/wombat": "wombat",
    "animals/marsupials/koala": "koala",
    "animals/birds/pink_flamingo": "flamingo",
    "animals/birds/gander": "goose",
    "animals/birds/tucan": "toucan",
    "animals/birds/peacock": "peacock",
    "food/fruit/cherimoya": "custard apple",
    "food/fruit/Strawberry2": "strawberry",
    "food/vegetables/corn": "ear",
    "hobbies/music/string/guitar_electric": "electric guitar",
    "hobbies/music/string/guitar_classical": "acoustic guitar",
    "hobbies/music/percussion/drum_tomtom_floor": "drum",
    "medical/stethoscope": "stethoscope",
    "vehicles/flight/balloon360": "balloon",
    "vehicles/emergency/firetruck": "fire engine",
    "vehicles/masstransit/green_korean_bus": "minibus",
    "vehicles/garbagetruck": "garbage truck",
    "hobbies/music/brass/trumpet": "cornet",
    "military/paratrooper": "parachute",
    "military/vehicles/f22_raptor": "warplane",
}


def on_grey(cutout: Image.Image, size: int = 224) -> torch.Tensor:
    canvas = Image.new("RGBA", (size, size), (128, 128, 128, 255))
    small = cutout.copy()
    small.thumbnail((180, 180), Image.Resampling.BILINEAR)
    small = (
        small if max(cutout.size) >= 180 else cutout.resize([round(s * 180 / max(cutout.size)) for s in cutout.size])
    )
    canvas.alpha_composite(small, ((size - small.width) // 2, (size - small.height) // 2))
    return torch.from_numpy(np.array(canvas.convert("RGB"))).permute(2, 0, 1).float() / 255


def main(stamps: Path, folder: Path):
    classifier, rows = load_classifier("efficientnet_lite0"), []
    for stamp, name in STAMPS.items():
        cutout = Image.open(stamps / f"{stamp}.png").convert("RGBA")
        cutout = cutout.crop(cutout.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox())
        cutout.thumbnail((320, 320), Image.Resampling.LANCZOS)
        (best, probability), *_ = classifier.predict(on_grey(cutout))
        if best != name or probability < 0.5:
            print(f"left out: {name}, named {best} with {probability:.2f}")
            continue
        file = name.replace(" ", "_") + ".png"
        cutout.save(folder / file, optimize=True)
        rows.append([file, name, f"{stamp}.png", f"{probability:.2f}"])
    with (folder / "cutouts.csv").open("w", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([["file", "class", "stamp", "probability_on_grey"], *rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
