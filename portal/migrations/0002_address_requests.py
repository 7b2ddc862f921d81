from django.db import migrations, models
from django.utils import timezone


class Migration(migrations.Migration):

    dependencies = [("portal", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="addresscode",
            name="requested_at",
            field=models.DateTimeField(default=timezone.now),
            preserve_default=False,
        ),
        migrations.AlterField(
            model_name="addresscode",
            name="digest",
            field=models.CharField(blank=True, editable=False, max_length=64),
        ),
        migrations.AlterField(
            model_name="addresscode",
            name="expires_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AlterField(
            model_name="addresscode",
            name="sent_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
    ]
