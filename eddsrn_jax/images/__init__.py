"""Image files in and out: decoding, encoding, metadata."""

from eddsrn_jax.images.files import count_pixels, list_images, read_image, write_image

__all__ = ["count_pixels", "list_images", "read_image", "write_image"]
