"""`tailorbird run candidates`: keeps the tables of candidate sources up to date."""

from tailorbird.cli.output import HealthHost, HealthPort
from tailorbird.cli.roles.probes import serve_probes
from tailorbird.cli.roles.start import LAKE_POLL_S, start_role
from tailorbird.errors import UsageError
from tailorbird.periodic import exit_process


def candidates(
    *, contract: str = "", health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1"
) -> None:
    """Keep the tables of candidate sources up to date with the routed log.

    Servers read them for each request, so a click counts in `trending` within a second. If slots or
    bundles need other sources, their tables are built from the lake next to the current ones.

    Example:  tailorbird -C shop run candidates

    Parameters
    ----------
    contract:
        hash of the contract of the tables; by default that of slots and bundles
    """
    from tailorbird.candidates.role import CandidatesRole
    from tailorbird.config import open_project
    from tailorbird.config.candidates import maintained_contracts
    from tailorbird.config.erasures import apply_remote_erasures

    stop_event = start_role()
    project = open_project(use_applied=True)
    apply_remote_erasures(project)
    # A contract says which tables are maintained, and with what settings.
    contract_by_hash = {
        maintained_contract.hash: maintained_contract
        for maintained_contract in maintained_contracts(project)
    }
    if contract and contract not in contract_by_hash:
        raise UsageError(
            f"no slot and no bundle asks for the tables {contract}",
            where="--contract",
            fix=f"use {' or '.join(contract_by_hash)}",
        )
    selected_contract = (
        contract_by_hash[contract] if contract else list(contract_by_hash.values())[-1]
    )
    project.paths.candidates.mkdir(parents=True, exist_ok=True)
    was_built_from_lake = False
    with (
        serve_probes("candidates", project, stop_event, host=health_host, port=health_port),
        CandidatesRole(
            project.routed,
            project.paths.candidates,
            selected_contract,
            clock=project.clock(),
            copies=project.copy_target(),
        ) as role,
    ):
        while not stop_event.is_set():
            if role.needs_history():
                from tailorbird.candidates.history import build_from_lake, lake_is_ahead
                from tailorbird.lake import Lake

                was_built_from_lake = True
                lake = Lake(project.paths.lake)
                # The topics were recreated, and the lake is not past the lost rows.
                if not lake_is_ahead(role, lake):
                    stop_event.wait(LAKE_POLL_S)
                    continue
                build_from_lake(role, lake, stop_event)
            role.run(stop_event)
    if was_built_from_lake:
        exit_process(0)
