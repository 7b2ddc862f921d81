"""How dates read where a template doesn't say: in the admin's lists, sortable and short."""

DATE_FORMAT = "Y-m-d"
DATETIME_FORMAT = "Y-m-d H:i"
TIME_FORMAT = "H:i"
