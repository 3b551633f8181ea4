"""What models are trained and measured on: drawn scenes, drawings by several artists, any folder."""
