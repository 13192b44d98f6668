"""The errors of the node itself: what keeps it from starting or going on, and the way out.

::

    QuorateError
    ├── ConfigError           the operator's: a setting that cannot be used
    ├── HomeError             the operator's: the home folder or a file in it cannot be used
    │   ├── HomeInUse         another process runs on the same home folder
    │   └── GenesisError      the genesis file is missing, damaged or of another chain
    ├── SignerError           the signer refuses; nothing was signed
    │   ├── DoubleSignError   what was asked for contradicts what was signed before
    │   └── SignRecordError   the last-signed record is missing, damaged or somebody else's
    ├── MaintenanceError      the operator's: what was asked of a stopped node cannot be done
    │   └── ReplayDiffers     a stored block gives another result when it is executed again
    └── SubscriptionRefused   a client's: as many subscriptions as allowed are open already

A key file that cannot be used is the SDK's `quorate.errors.KeyFileError`. The other classes of the
node stand beside what raises them:

::

    QuorateError
    ├── Refusal               a client's: the RPC's answer itself (`node.rpc.problems`)
    ├── SurfaceListenError    the operator's: RPC or metrics cannot listen (`node.rpc.listening`)
    ├── LocalnetError         a localnet cannot start or go on (`node.localnet`)
    ├── DemoError             the demonstration cannot go on (`node.demo.errors`)
    ├── KeyringError          the user's: a key for accounts (`node.commands.keyring`)
    ├── InputFileError        the user's: a file given to a command (`node.commands.task_file`)
    ├── NotConfirmed          the user's: a question answered with no (`node.commands.printing`)
    └── Interrupted           the user's: Ctrl-C, everything is stopped (`node.failures`)
    TransactionError
    └── NonceGapError         the nonces before it are missing as yet (`node.mempool.admission`)
    BlockError
    └── DivergentRoots        executed here it has other roots (`node.execution.block_checks`)

Owns the classes of the first tree. Each message is a sentence that ends with the way out, and is
shown to the operator as it is. Never decides what follows: the catcher does.
"""

from quorate.chain.errors import QuorateError


class ConfigError(QuorateError):
    """A setting that cannot be used: unknown, of the wrong kind or out of its bounds."""


class HomeError(QuorateError):
    """The home folder, or a file in it, cannot be used."""


class HomeInUse(HomeError):  # noqa: N818 - it says what is the matter.
    """Another process has the home folder locked."""


class GenesisError(HomeError):
    """The genesis file is missing, is not valid or belongs to another chain."""


class SignerError(QuorateError):
    """The signer refuses. Nothing was signed, and nothing may be sent."""


class DoubleSignError(SignerError):
    """Signing would go back behind, or contradict, what this key has signed already."""


class SignRecordError(SignerError):
    """The last-signed record is missing, damaged or made for another key or chain."""


class MaintenanceError(QuorateError):
    """What was asked of a stopped node's data cannot be done; nothing was changed."""


class ReplayDiffers(MaintenanceError):  # noqa: N818 - it says what is the matter.
    """A stored block, executed again, gives another result than was decided."""


class SubscriptionRefused(QuorateError):  # noqa: N818 - it says what happened.
    """No further subscription to events is taken at the moment."""
