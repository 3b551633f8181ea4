"""What models are trained and measured on: drawn scenes, artists' drawings, any folder."""
