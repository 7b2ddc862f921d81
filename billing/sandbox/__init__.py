"""The sandbox's own world: hosted checkout pages, test cards, and webhooks that it sends.

Nothing of Keystile but its provider adapter may read or write what is here.
"""
