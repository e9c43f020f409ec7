"""Ray's side of a fleet: which machines are in it, its actor and its deployment. Blocking.

Ray is imported in functions only, as the package has to be there without it.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from proxy.fleet.names import APPLICATION, NAMESPACE, RESOURCE

DIRECTORY: Final = "directory"
DEPLOYMENT: Final = "Supervisor"
HEAD: Final = "node:__internal_head__"  # a resource that Ray gives to its head
ANSWER_S: Final = 30.0
# Of Serve: a sick one is found within three of these.
HEALTH_PERIOD_S, HEALTH_WITHIN_S = 1.0, 3.0
# A supervisor has its own bound for its node's end, which its policies say; this one is above it.
END_S: Final = 3600.0


def wanted(deployed: bool | None = None) -> frozenset[str]:
    """Ray's ids of the machines that are to be nodes. `deployed`: `deployed_by_resource`, where
    that is known already, so that Serve's controller needs not answer."""
    import ray

    return chosen(ray.nodes(), by_resource=by_resource() if deployed is None else deployed)


def chosen(nodes: Iterable[Mapping[str, Any]], *, by_resource: bool) -> frozenset[str]:
    """Those that have our resource, or all. Pure; takes what Ray tells."""
    return frozenset(
        node["NodeID"] for node in nodes if node["Alive"] and (_has_it(node) or not by_resource)
    )


def by_resource() -> bool:
    """Whether only machines that have our resource are nodes: as the fleet was deployed, whoever
    has joined since; before that, whether some machine has it."""
    deployed = deployed_by_resource()
    return has_resource() if deployed is None else deployed


def has_resource() -> bool:
    """Whether some machine has our resource."""
    import ray

    return any(map(_has_it, ray.nodes()))


def _has_it(node: Mapping[str, Any]) -> bool:
    return bool(node["Alive"] and node["Resources"].get(RESOURCE, 0) >= 1)


def deployed_by_resource() -> bool | None:
    """Whether only machines that have our resource were to be nodes as the fleet was deployed, for
    as long as it is; None where nothing is deployed."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None
    told = ray.get(controller.get_serve_instance_details.remote(), timeout=ANSWER_S)
    return of_deployment(told)


def of_deployment(told: Mapping[str, Any]) -> bool | None:
    """None where nothing is deployed. Pure; takes what Serve tells."""
    application = told["applications"].get(APPLICATION, {})
    deployment = application.get("deployments", {}).get(DEPLOYMENT)
    if deployment is None:
        return None
    options = deployment["deployment_config"].get("ray_actor_options") or {}
    return RESOURCE in (options.get("resources") or {})


def own_machine() -> str:
    """Ray's id of the machine that this process runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def directory() -> Any:
    """The fleet's directory, made where there is none. Raises what Ray raises."""
    import ray

    from proxy.fleet.cluster.directory_actor import DirectoryActor

    actor = ray.remote(DirectoryActor).options(
        name=DIRECTORY,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=10_000,  # each supervisor waits in one call
        # Where the head is, whenever it begins again: with that, all of it goes anyway.
        resources={HEAD: 0.001},
    )
    return actor.remote()


def existing_directory() -> Any | None:
    import ray

    try:
        return ray.get_actor(DIRECTORY, namespace=NAMESPACE)
    except ValueError:
        return None


def asked(directory: Any, method: str, *arguments: object) -> Any:
    """A call, to be waited for, that goes on where the directory is just begun again."""
    return getattr(directory, method).options(max_task_retries=-1).remote(*arguments)


def is_there() -> bool:
    """Whether there is anything of a fleet in this cluster."""
    return existing_directory() is not None or APPLICATION in _serve().status().applications


def is_head(machine: str) -> bool:
    """Whether that is the first one, without which Ray does nothing new."""
    import ray

    return any(each["NodeID"] == machine and HEAD in each["Resources"] for each in ray.nodes())


def others() -> int:
    """How many machines beside this one are in the cluster."""
    import ray

    return len([node for node in ray.nodes() if node["Alive"]]) - 1


def is_deployed() -> bool:
    """It is there, and does not end: who has told it to may not have waited."""
    found = _serve().status().applications.get(APPLICATION)
    return found is not None and found.status != "DELETING"


def deploy(arguments: Mapping[str, Any]) -> None:
    """Have a supervisor on each machine; its arguments. Returns before they run."""
    import ray

    serve, only_with_it = _serve(), has_resource()
    replicas = len(chosen(ray.nodes(), by_resource=only_with_it)) or 1
    serve.start(http_options={"location": "NoServer"})  # bytes do not go through Ray
    serve.run(
        application(arguments, replicas, by_resource=only_with_it),
        name=APPLICATION,
        route_prefix=None,
        blocking=False,
        external_scaler_enabled=True,
    )


def application(arguments: Mapping[str, Any], replicas: int, *, by_resource: bool) -> Any:
    """For Serve. A machine has one supervisor at most."""
    from ray import serve

    from proxy.fleet.cluster.supervisor import Supervisor

    deployment = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=replicas,
        max_replicas_per_node=1,
        ray_actor_options={"num_cpus": 0, "resources": {RESOURCE: 1} if by_resource else {}},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_WITHIN_S,
        graceful_shutdown_timeout_s=END_S,
        graceful_shutdown_wait_loop_s=0.1,
    )(Supervisor)
    return deployment.bind(**arguments)


def set_replicas(count: int) -> None:
    """As many supervisors; nothing where none are deployed. What runs goes on."""
    import ray
    from ray.serve._private.common import DeploymentID
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    # Serve's own way for this is a request to Ray's dashboard, which is not there; to run the
    # application again with another number would end those that run.
    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    which = DeploymentID(name=DEPLOYMENT, app_name=APPLICATION)
    ray.get(controller.update_deployment_replicas.remote(which, count), timeout=ANSWER_S)


def remove() -> None:
    """End all supervisors, each with what it has, and the directory; Serve where it has nothing
    else."""
    import ray

    serve = _serve()
    if APPLICATION in serve.status().applications:
        serve.delete(APPLICATION)
    if (actor := existing_directory()) is not None:
        ray.kill(actor)
    if not serve.status().applications:
        serve.shutdown()


def _serve() -> Any:
    """Serve, which tells what it does on standard error unless it is told not to."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return serve


def configured(args: dict[str, Any]) -> Any:
    """The application of a Serve config file; the directory sees to the number of supervisors."""
    return application(args, 1, by_resource=by_resource())
