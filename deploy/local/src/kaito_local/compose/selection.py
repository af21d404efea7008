"""Which integration tests run against the containers: those that need nothing but what docker-compose.test.yaml has."""

SELECTED = (
    "deploy/local/tests/test_claims.py",
    "libs/kubecore/tests/test_apiserver.py",
    "libs/kubecore/tests/test_manager.py",
    "libs/oci/tests/test_pull_and_push.py",
    "libs/oci/tests/test_tls_registry.py",
    "services/adapter-packager/tests/test_command_line.py",
    "services/adapter-packager/tests/test_on_the_apiserver.py",
    "services/gpu-provisioner/tests/test_provisioner.py",
    "services/model-server/tests/test_fetch.py",
    "services/tuner/tests/test_keeper.py",
    "services/tuner/tests/test_reporting.py",
    "services/workspace-controller/tests/integration/test_adapters.py",
    "services/workspace-controller/tests/integration/test_applier.py",
    "services/workspace-controller/tests/integration/test_bad_input.py",
    "services/workspace-controller/tests/integration/test_goldens_accepted.py",
    "services/workspace-controller/tests/integration/test_lifecycle.py",
    "services/workspace-controller/tests/integration/test_main_path.py",
    "services/workspace-controller/tests/integration/test_refusals.py",
    "services/workspace-controller/tests/integration/test_replaceable.py",
    "services/workspace-controller/tests/integration/test_tuning.py",
    "tests/chart/test_profiles.py",
    "tests/contract/test_claims.py",
    "tests/contract/test_columns.py",
    "tests/contract/test_controller_grants.py",
    "tests/contract/test_stored_before.py",
    "tests/contract/test_versions.py",
    "tests/contract/test_workload_reports.py",
    "tests/contract/test_workspace_policy.py",
    "tests/contract/test_workspace_rules.py",
    "tests/observability/test_scrape.py",
)
"""Test files, from the repository's root."""

LEFT_OUT = {
    "libs/kubecore/tests/test_apiserver.py::TestInformer::test_410_after_compaction": "restarts the apiserver",
    "libs/kubecore/tests/test_apiserver.py::TestInformer::test_apiserver_restart": "restarts the apiserver",
    "libs/oci/tests/test_pull_and_push.py::test_a_registry_that_is_read_only_says_so": "a registry of its own kind",
    "services/adapter-packager/tests/test_command_line.py::test_registry_down_and_read_only": "stops the registry",
    "services/gpu-provisioner/tests/test_provisioner.py::"
    "test_a_strangers_pool_of_the_same_name_is_never_touched": "makes a pool inside the stand-in",
    "services/gpu-provisioner/tests/test_provisioner.py::"
    "test_a_pool_deleted_in_the_portal_costs_the_claim": "deletes a pool inside the stand-in",
    "services/tuner/tests/test_keeper.py::test_a_registry_that_is_down_is_a_reason_for_a_new_pod": "stops the registry",
}
"""Tests of those files that need processes of their own, with the reason."""


def pytest_arguments() -> list[str]:
    """The selection as pytest takes it."""
    return [*SELECTED, *(f"--deselect={test}" for test in LEFT_OUT)]
