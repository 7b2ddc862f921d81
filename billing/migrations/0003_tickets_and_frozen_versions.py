"""The sequence of fetch tickets, and the database's own word that a published price is kept."""

from django.db import migrations

TICKETS = "CREATE SEQUENCE billing_ticket"
NO_TICKETS = "DROP SEQUENCE billing_ticket"

FROZEN = """
CREATE FUNCTION billing_refuse_published() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    touched bigint[];
BEGIN
    IF TG_TABLE_NAME = 'billing_planversion' THEN
        touched := ARRAY[OLD.id];
    ELSIF TG_OP = 'INSERT' THEN
        touched := ARRAY[NEW.version_id];
    ELSIF TG_OP = 'DELETE' THEN
        touched := ARRAY[OLD.version_id];
    ELSE
        touched := ARRAY[OLD.version_id, NEW.version_id];
    END IF;
    IF EXISTS (
        SELECT 1 FROM billing_planversion
        WHERE id = ANY(touched) AND published_at IS NOT NULL
    ) THEN
        RAISE EXCEPTION 'A published plan version never changes.'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;

CREATE TRIGGER billing_planversion_frozen BEFORE UPDATE OR DELETE ON billing_planversion
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_published();
CREATE TRIGGER billing_planmeter_frozen BEFORE INSERT OR UPDATE OR DELETE ON billing_planmeter
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_published();
"""
NOT_FROZEN = """
DROP TRIGGER billing_planversion_frozen ON billing_planversion;
DROP TRIGGER billing_planmeter_frozen ON billing_planmeter;
DROP FUNCTION billing_refuse_published();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_initial")]

    operations = [
        migrations.RunSQL(TICKETS, NO_TICKETS),
        migrations.RunSQL(FROZEN, NOT_FROZEN),
    ]
