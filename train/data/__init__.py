"""Where training pairs come from: labelled tracks and stills, composed scenes, and the augmentation that all of them get."""
