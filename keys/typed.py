"""Django's classes that are generic in their stubs and, in this version, not at run time.

`ModelForm[Plan]` tells the type checker of whose form it is; when the program runs the brackets
change nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin, TabularInline
    from django.core.paginator import Paginator
    from django.forms import BaseInlineFormSet, ModelForm
else:
    from django import forms
    from django.contrib import admin
    from django.core import paginator

    class _Brackets:
        def __class_getitem__(cls, _):
            return cls

    class ModelAdmin(_Brackets, admin.ModelAdmin):
        pass

    class TabularInline(_Brackets, admin.TabularInline):
        pass

    class Paginator(_Brackets, paginator.Paginator):
        pass

    class BaseInlineFormSet(_Brackets, forms.BaseInlineFormSet):
        pass

    class ModelForm(_Brackets, forms.ModelForm):
        pass


__all__ = ["BaseInlineFormSet", "ModelAdmin", "ModelForm", "Paginator", "TabularInline"]
