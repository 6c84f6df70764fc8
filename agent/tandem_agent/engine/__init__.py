"""The data path: what moves file content into packs and back out of them."""
