"""WebShop as a text environment: search, results pages, product pages with options, purchase, published reward."""

from masa_training.environments.webshop.environment import WebShop

__all__ = ["WebShop"]
