"""What all tests share: hypothesis without a clock."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "moe-cluster",
    deadline=None,  # this and `too_slow` fail on a busy machine; pytest's timeout catches what hangs
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,  # examples are new in every run: one that failed elsewhere can be repeated here
)
settings.load_profile("moe-cluster")
