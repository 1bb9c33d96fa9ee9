"""What --pull does: the model of a slot is fetched first when it is not on this machine yet."""

from __future__ import annotations

from llmctl.cli.session import Session
from llmctl.errors import UnknownName


def bring(session: Session, model: str, engine: str = "auto", quantization: str | None = None) -> str:
    """Have a model here, pulled when no artifact of it is (in that quantization); its id."""
    from llmctl.cli import pull
    from llmctl.models import store
    from llmctl.models.choice import READS

    try:
        found = session.catalog.resolve(model)
    except UnknownName:
        if "/" not in model:
            raise
    else:
        here = {(artifact.quantization or "").casefold() for artifact, _ in store.present(found, session.models_dir)}
        if here and (quantization is None or quantization.casefold() in here):
            return found.id
    answer = pull.fetch(session, model, READS[engine][0] if engine in READS else "auto", quantization)
    session.forget_models()
    return str(answer.data["model"])
