"""What the cluster's tests share is for these too."""

from tests.cluster.conftest import _patient_probe, hosts, measured_hardware

__all__ = ["_patient_probe", "hosts", "measured_hardware"]
