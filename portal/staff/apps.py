"""Puts the staff's own site in the place of Django's admin."""

from django.contrib.admin.apps import AdminConfig


class StaffAdminConfig(AdminConfig):
    default_site = "portal.staff.site.StaffSite"
