"""The adapter of Dodo Payments, through its official library.

`client` opens it, `metering` sends usage to `/events/ingest`.
"""
