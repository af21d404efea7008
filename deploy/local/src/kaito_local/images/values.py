"""The umbrella chart's values that name images: the one place that knows where each service's image stands in them."""

from typing import Any


def image_values(references: dict[str, str]) -> dict[str, Any]:
    """Return the umbrella chart's values that name these images, by service, whatever registry a profile puts before others."""
    values: dict[str, Any] = {"global": {"imageRegistry": ""}}
    for service in ("workspace-controller", "gpu-provisioner"):
        if service in references:
            repository, _, tag = references[service].rpartition(":")
            values[service] = {"image": {"repository": repository, "tag": tag}}
    tuning: dict[str, Any] = {}
    if "tuner" in references:
        tuning["images"] = {"cpu": references["tuner"]}
    if "adapter-packager" in references:
        tuning["packagerImage"] = references["adapter-packager"]
    settings: dict[str, Any] = {"tuning": tuning} if tuning else {}
    if "model-server" in references:
        settings["engineImages"] = {"cpu": references["model-server"]}
    if settings:
        values.setdefault("workspace-controller", {})["settings"] = settings
    return values
