"""The credits endpoint: what is left, grant by grant, in the order of use."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import allowances
from keys import clock
from portal.api.access import ControlView, Scope, account_of
from portal.api.keys import ACCOUNT, answers, example


class Grant(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    given = serializers.IntegerField()
    left = serializers.IntegerField(help_text="As far as the ledger has it.")
    expires_at = serializers.DateTimeField(allow_null=True)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        # A name that a class of this kind can't have.
        source = serializers.ChoiceField(choices=["staff", "trial", "plan", "bought"])
        return {**super().get_fields(), "source": source}


class Balance(serializers.Serializer[Any]):
    balance = serializers.IntegerField(help_text="The sum of what is left.")
    grants = Grant(many=True, help_text="Those with something left, in the order of use.")


class Credits(ControlView):
    scopes = {"GET": Scope.USAGE_READ}

    @extend_schema(
        operation_id="get_credits",
        summary="See what credits are left",
        description="Prepaid credits of the account. What calls have drawn is in it seconds after "
        "them; a key's `.limits` has it at once. Scope: `usage:read`.",
        parameters=[ACCOUNT],
        responses=answers(on_200=Balance),
        examples=[
            example(
                "A month's credits and bought ones",
                {
                    "balance": 1250,
                    "grants": [
                        {
                            "id": 12,
                            "source": "plan",
                            "given": 500,
                            "left": 250,
                            "expires_at": "2026-12-01T00:00:00Z",
                        },
                        {
                            "id": 9,
                            "source": "bought",
                            "given": 1000,
                            "left": 1000,
                            "expires_at": None,
                        },
                    ],
                },
                code=200,
            )
        ],
    )
    def get(self, request: Request) -> Response:
        held = [one for one in allowances.holdings(account_of(request).pk, clock.now()) if one.left]
        grants = [
            {
                "id": one.grant.pk,
                "given": one.grant.amount,
                "left": one.left,
                "expires_at": one.grant.expires_at,
                "source": one.grant.source,
            }
            for one in held
        ]
        balance = sum(one.left for one in held)
        return Response(Balance({"balance": balance, "grants": grants}).data)
