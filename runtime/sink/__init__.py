"""Where saliency goes."""
