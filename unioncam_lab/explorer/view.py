"""What the explorer shows, as data: it becomes JSON or the query of an address, and the same view again."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin
from urllib.parse import parse_qsl, urlencode

Steps = Literal["union_cam", "fusion_cam"]
Compared = Literal[
    "grad_cam", "grad_cam_plus_plus", "score_cam", "group_cam", "union_cam", "fusion_cam", "random_map", "center_blob"
]
Reading = Literal["channel", "positive", "map"]
Tab = Literal["explain", "paint", "metrics"]
Cover = Literal["black", "blurred", "mean colour"]
UPLOAD = "upload"  # the picture of a view whose photo was the visitor's own


@dataclass(frozen=True)
class View:
    """All that a visitor chose. It holds no pixel: an uploaded photo is named UPLOAD, and must be uploaded again.

    Raises:
        ValueError: a value is of another type, or is not one of those that are possible; the sentence names it.
    """

    picture: str = "chelsea"  # a name of explanation.PICTURES, or UPLOAD
    classifier: str = "efficientnet_lite0"
    target: int = -1  # the explained class; -1: the network's first answer
    steps: Steps = "union_cam"  # whose steps the flow shows
    methods: tuple[Compared, ...] = ("grad_cam", "score_cam", "union_cam", "fusion_cam")  # side by side
    theta: float = 10.0  # the denoising percentile, in [0, 100]
    reading: Reading = "channel"  # of Eq. 1: Protocol.percentile_over
    opacity: float = 0.85  # of the most salient pixel, in [0, 1]
    channel: int = -1  # the feature map looked at; -1: the one with the largest region score
    tab: Tab = "explain"
    judged: Compared = "union_cam"  # the method whose map the tabs `paint` and `metrics` test
    cover: Cover = "black"  # what `paint` paints with
    share: int = 20  # of the pixels, in percent: the point of the curves that `metrics` shows

    def __post_init__(self):
        for known in fields(self):
            object.__setattr__(self, known.name, _checked(known.name, known.type, getattr(self, known.name)))
        for name, largest in (("theta", 100), ("opacity", 1), ("share", 100)):
            if not 0 <= getattr(self, name) <= largest:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it lies between 0 and {largest}.")
        for name in ("target", "channel"):
            if getattr(self, name) < -1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is a number from 0, or -1 for the first one.")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "View":
        """Return the view that `to_json` wrote. What the text leaves out has its default."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"This is no saved view, but {text[:40]!r}.") from error
        if not isinstance(values, dict):
            raise ValueError(f"A saved view has names and values, but this is {text[:40]!r}.")
        return cls(**_known(values))

    def to_query(self) -> str:
        """Return what differs from the default as the query of an address, as "theta=50&tab=paint"."""
        default = View()
        values = {known.name: getattr(self, known.name) for known in fields(self)}
        changed = {name: value for name, value in values.items() if value != getattr(default, name)}
        flat = {name: " ".join(value) if isinstance(value, tuple) else value for name, value in changed.items()}
        return urlencode({name: f"{value:g}" if isinstance(value, float) else value for name, value in flat.items()})

    @classmethod
    def from_query(cls, query: str) -> "View":
        """Return the view of a query. Names that are no part of a view, which servers add, are left out."""
        names = {known.name for known in fields(cls)}
        return cls(**{name: value for name, value in parse_qsl(query, keep_blank_values=True) if name in names})

    def changed(self, name: str, value: Any) -> "View":
        """Return this view with another value for one name."""
        return View(**(asdict(self) | _known({name: value})))


def _known(values: dict[str, Any]) -> dict[str, Any]:
    names = [known.name for known in fields(View)]
    if unknown := [name for name in values if name not in names]:
        raise ValueError(f"A view has no {unknown[0]!r}; it has {', '.join(names)}.")
    return values


def _checked(name: str, kind: Any, value: Any) -> Any:
    """Return a value of a kind; a text, as addresses and pages have it, becomes a number or a tuple."""
    try:
        if get_origin(kind) is tuple:
            return tuple(_checked(name, get_args(kind)[0], each) for each in _words(value))
        if kind in (int, float):
            if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
                raise TypeError
            return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        if " is " in str(error) and "can be" in str(error):
            raise
        raise ValueError(f"{name} is {value!r}; {_NEEDED.get(kind, 'a list')} is needed.") from None
    if kind is str and not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; a name is needed.")
    if kind is not str and value not in get_args(kind):
        raise ValueError(f"{name} is {value!r}; it can be {' or '.join(map(repr, get_args(kind)))}.")
    return value


def _words(value: Any) -> list:
    return value.split() if isinstance(value, str) else list(value)


_NEEDED = {int: "a whole number", float: "a number"}
