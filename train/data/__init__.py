"""Where training pairs come from: labelled tracks and stills, drawn scenes and clips, and their augmentation.

`readers` open datasets, each in its own format, as the collections of `labels`; `sources`, `scenes` and `clips` draw
views of one target from them; `pairs` cuts and augments views into examples; `mixture` puts that together for a recipe.
`images` decodes, `throughput` measures.
"""
