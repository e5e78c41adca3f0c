"""Where training pairs come from: labelled tracks and stills, composed scenes, and their augmentation."""
