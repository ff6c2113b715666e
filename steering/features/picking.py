"""What `sparsteer pick` does to the picks of a run."""

from ...sae.common.locks import PATIENCE, tidy
from .config import PickConfig
from .pick_store import PickStore
from .picks import Picks
from .run_folder import run_folder


def change_picks(config: PickConfig) -> Picks:
    """Do what the configuration says to the picks of a run, and give them as they are then.

    Adding a feature that is picked already changes what is given of it and keeps the rest. Several
    processes may change the picks of a run at once, and none is lost.

    Raises:
        InputError: there is no run or no such feature, the picks are of another autoencoder, or
            there is nothing to undo.
    """
    run = run_folder(config.run)
    with PickStore(run, patience=PATIENCE) as store:
        if config.action != "list":
            tidy(run)
        match config.action:
            case "list":
                pass
            case "add":
                store.change(config.feature, **config.given())
            case "remove":
                store.remove(config.feature)
            case "undo":
                store.undo()
        return store.picks()
