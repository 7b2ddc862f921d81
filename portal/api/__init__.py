"""The control plane: `/api/v1/…`, for programs that hold a service token.

`access` says who asks and for which account, `problems` how errors look, `keys` and `key_fields`
are the keys' endpoints, `events` and `event_fields` that of reported usage, `schema` describes
them all. Keys themselves are `keys.issuance`'s, reported usage is `gateway.reported`'s.
"""
