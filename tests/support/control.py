"""The control loop of a whole proxy, as its own tests look at it."""

from proxy.api.services import Services
from proxy.control.controller import Controller
from proxy.control.desired import DesiredStates


def controller_of(services: Services) -> Controller:
    assert isinstance(services.controller, Controller)
    return services.controller


def desired_of(services: Services) -> DesiredStates:
    assert isinstance(services.desired, DesiredStates)
    return services.desired
