"""Commands that report: /status and /stats."""

from app.cli.commands.command import Command
from app.cli.conversation.session import Session
from app.cli.errors import NotOurServer, Refused, UsageError
from app.cli.monitor.tables import activity_tables
from app.cli.output.formatting import count, format_age, format_size
from app.cli.output.load_progress import progress_of
from app.cli.output.model_table import served_from
from app.models.schemas import ModelHealth


async def status(session: Session, argument: str) -> None:
    health = await session.client.health()
    rows = [
        ("server", f"{session.client.url}, version {health.version}, {health.status}"),
        ("started", format_age(health.timestamp.timestamp() - health.uptime)),
        ("requests", f"{health.active_requests} running, {health.queued_requests} waiting"),
    ]
    if health.model is not None:
        rows += await _model_rows(session, health.model)
    for update in map(progress_of, health.loading):
        rows.append(("loading", f"{update} {update.share}".rstrip()))
    transcript = session.transcript
    rows.append(("conversation", f"{transcript.name or 'not started'}, {count(transcript.turns, 'turn')}"))
    if session.autosave.folder is not None and transcript.turns:
        rows.append(("saved in", str(session.autosave.folder / f"{transcript.session_id}.json")))
    session.terminal.show_grid(rows)
    try:
        activity = await session.client.activity()
    except (Refused, NotOurServer):  # an older server
        return
    for table in activity_tables(activity, None, session.terminal.console.width):
        session.terminal.show(table)


async def _model_rows(session: Session, model: ModelHealth) -> list[tuple[str, str]]:
    info = await session.client.model_info(model.name)
    device = " ".join(filter(None, (info.device, info.dtype)))
    memory = f", {format_size(info.memory_bytes)} of memory" if info.memory_bytes else ""
    rows = [
        ("model", f"{model.name}, {model.status}, {device}{memory}"),
        ("served from", served_from(model.model_id or "nothing yet")),
    ]
    if info.cache is not None:
        rows.append(("cache", ": ".join(filter(None, (info.cache, info.cache_reason)))))
    if info.guessed_template is not None:
        rows.append(("chat template", f"{info.guessed_template}'s, because the model's file has none"))
    return rows


async def show_statistics(session: Session, argument: str) -> None:
    statistics, terminal = session.statistics, session.terminal
    if not statistics.answers:
        raise UsageError("There has been no answer since the client started.", "Type a message first.")
    terminal.show(statistics.table())
    if terminal.style.symbols and len(statistics.speeds) > 1:
        slowest, fastest = min(statistics.speeds), max(statistics.speeds)
        terminal.say(
            f"{statistics.sparkline()}  {slowest:,.0f} to {fastest:,.0f} tokens/s, one bar per answer"
        )


COMMANDS = (
    Command("status", "", "show the server, its models and requests, and this conversation", status),
    Command("stats", "", "show token counts and speeds of the answers so far", show_statistics),
)
