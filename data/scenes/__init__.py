"""The small, exactly known world of the embedded model: scenes, their pictures, their captions.

`world` says what a scene is, `draw` paints one, `captions` writes and reads sentences about one,
and `judge` reads a scene off a picture. Only `judge` needs torch.
"""
