"""From a photo to restored photos: Restorer, tiles, batches of files."""
