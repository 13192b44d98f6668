"""A view of the state that a block's transactions read and change, one on top of the committed one.

Owns uncommitted changes and the counts that bound the state's size. Never touches the committed
state: what a block changes leaves it as records and their bytes.
"""

from dataclasses import dataclass
from typing import TypeVar

from quorate.chain.errors import InvariantError
from quorate.chain.ids import Address, Hash
from quorate.chain.task import TaskSpec

from ledger.keys import (
    get_account_key,
    get_registration_key,
    get_task_key,
    get_task_spec_key,
)
from ledger.records import (
    AccountRecord,
    Record,
    RegistrationRecord,
    TaskRecord,
    TaskSpecRecord,
    encode_record,
)
from ledger.state import State

R = TypeVar("R", bound=Record)


@dataclass(slots=True)
class Account:
    """An account as a block sees it."""

    nonce: int
    balance: int
    is_changed: bool = False


class Overlay:
    """The state with the changes of a block so far.

    Parameters
    ----------
    state : State
        The committed state; read only.
    """

    __slots__ = ("_accounts", "_changed", "created_member_count", "created_task_count",
                 "opened_update_count", "state")  # fmt: skip

    def __init__(self, state: State) -> None:
        self.state = state
        self.created_task_count = 0
        self.created_member_count = 0
        self.opened_update_count = 0
        self._accounts: dict[Address, Account] = {}
        self._changed: dict[bytes, Record | None] = {}

    def get_account(self, address: Address) -> Account:
        """Return an account to read or to change; set `is_changed` along with a change."""
        account = self._accounts.get(address)
        if account is None:
            record = self.state.get_account(address)
            account = self._accounts[address] = Account(record.nonce, record.balance)
        return account

    def get(self, key: bytes, kind: type[R]) -> R | None:
        """Return a record of a known kind, or None."""
        if key not in self._changed:
            return self.state.get(key, kind)
        record = self._changed[key]
        if record is None or isinstance(record, kind):
            return record
        raise InvariantError(f"a block wrote a {type(record).__name__} under {key.hex()}")

    def get_existing(self, key: bytes, kind: type[R]) -> R:
        """Return a record that must exist.

        Raises
        ------
        InvariantError
            If it does not.
        """
        record = self.get(key, kind)
        if record is None:
            raise InvariantError(f"the state lacks the {kind.__name__} {key.hex()}")
        return record

    def put(self, key: bytes, record: Record) -> None:
        """Write a record."""
        self._changed[key] = record

    def delete(self, key: bytes) -> None:
        """Delete a record."""
        self._changed[key] = None

    def get_task(self, task_id: Hash) -> TaskRecord | None:
        """Return the changing part of a task, or None."""
        return self.get(get_task_key(task_id), TaskRecord)

    def get_task_spec(self, task_id: Hash) -> TaskSpec:
        """Return the specification of a task that exists."""
        return self.get_existing(get_task_spec_key(task_id), TaskSpecRecord).spec

    def get_registration(self, task_id: Hash, participant: Address) -> RegistrationRecord | None:
        """Return a participant's registration for a task, or None."""
        return self.get(get_registration_key(task_id, participant), RegistrationRecord)

    def get_changed_tasks(self) -> dict[Hash, TaskRecord]:
        """Return the tasks that the block has written, in the order of their ids."""
        found = {
            Hash(key[1:]): record
            for key, record in self._changed.items()
            if isinstance(record, TaskRecord)
        }
        return dict(sorted(found.items()))

    def get_records(self) -> dict[bytes, Record | None]:
        """Return all changes so far, sorted by key."""
        records = dict(self._changed)
        for address, account in self._accounts.items():
            if account.is_changed:
                records[get_account_key(address)] = AccountRecord(account.nonce, account.balance)
        return dict(sorted(records.items()))


def encode_records(records: dict[bytes, Record | None]) -> dict[bytes, bytes | None]:
    """Return the bytes of changed records; None for deleted ones."""
    return {
        key: None if record is None else encode_record(record) for key, record in records.items()
    }
