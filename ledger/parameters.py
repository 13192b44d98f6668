"""Changes of the consensus parameters, approved by validators.

Owns when a change is approved: validators of this height with more than two thirds of the power
have signed exactly this change of exactly the parameters in force. Never changes the parameters of
the height that carries the change: the next height is the first to see them.
"""

from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Address
from quorate.chain.keys import Domain, is_signature_valid
from quorate.chain.transaction import ChangeParameters, compute_approval_bytes

from ledger.environment import Environment
from ledger.keys import PARAMETERS_KEY
from ledger.membership import validate_member
from ledger.records import ParametersRecord


def validate_change_parameters(env: Environment, sender: Address, body: ChangeParameters) -> None:
    """Check a change against the parameters in force, and its approvals.

    Raises
    ------
    TransactionError
        `not_admitted`, `invalid_parameters`, `bad_signature` or `insufficient_approval`.
    """
    if sender not in env.context.validators.by_address:
        validate_member(env, sender)
    known = get_parameters(env)
    if (body.replaces, body.sequence) != (known.parameters.root, known.change_count):
        raise TransactionError(
            ErrorCode.INVALID_PARAMETERS,
            f"The change replaces {body.replaces.hex()} after {body.sequence} changes; in force"
            f" is {known.parameters.root.hex()} after {known.change_count}: have the validators"
            " approve a change of these.",
        )
    if body.parameters == known.parameters:
        raise TransactionError(
            ErrorCode.INVALID_PARAMETERS,
            "The change changes nothing: these parameters are in force.",
        )
    validators = env.context.validators
    power = compute_approving_power(env, body)
    if not validators.is_quorum(power):
        raise TransactionError(
            ErrorCode.INSUFFICIENT_APPROVAL,
            f"Validators with {power} of {validators.total_power} power approve; it takes more"
            " than two thirds: collect more approvals.",
        )


def compute_approving_power(env: Environment, body: ChangeParameters) -> int:
    """Return the power of the current validators that approve, each counted once.

    An approval by somebody who is no validator at this height counts nothing.

    Raises
    ------
    TransactionError
        `bad_signature` if a validator's signature is not one of this change.
    """
    message = compute_approval_bytes(env.context.chain_id, body)
    approving: dict[Address, int] = {}
    for approval in body.approvals:
        validator = env.context.validators.by_address.get(approval.validator)
        if validator is None or approval.validator in approving:
            continue
        if not is_signature_valid(
            validator.public_key, Domain.PARAMETERS, message, approval.signature
        ):
            raise TransactionError(
                ErrorCode.BAD_SIGNATURE,
                f"The approval of {approval.validator.hex()} is no signature of this change:"
                " collect it again.",
            )
        approving[approval.validator] = validator.power
    return sum(approving.values())


def apply_change_parameters(env: Environment, body: ChangeParameters) -> None:
    """Let the parameters be in force from the next height on."""
    count = get_parameters(env).change_count + 1
    env.view.put(PARAMETERS_KEY, ParametersRecord(body.parameters, count))


def get_parameters(env: Environment) -> ParametersRecord:
    """Return the parameters of the next height as they stand."""
    return env.view.get_existing(PARAMETERS_KEY, ParametersRecord)
