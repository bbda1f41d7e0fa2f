"""The colours of maps and methods, for figures and for pages; this module imports nothing."""

# Each map and method has one colour throughout the project, and no colour has a second meaning. Colour-blind readers
# can tell the methods apart (Okabe-Ito), and the maps inside UnionCAM (dark colours of Tol).
COLOURS = {
    "denoising": "#332288",
    "region": "#882255",
    "united": "#6B6100",
    "grad_cam": "#56B4E9",
    "grad_cam_plus_plus": "#0072B2",
    "score_cam": "#CC79A7",
    "group_cam": "#E69F00",
    "union_cam": "#009E73",
    "fusion_cam": "#D55E00",
    "fake_cam": "#999999",
    "neutral": "#595959",
}
