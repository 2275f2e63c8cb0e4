"""Reading of an encoder's file."""

import msgspec

from tailorbird.errors import BundleError, DeclarationError
from tailorbird.ranking.encode.encoder import FORMAT, Encoder


def read_encoder(data: bytes, *, where: str) -> Encoder:
    """Decode a bundle's `encoder.json`.

    Raises:
        BundleError: it cannot be read, contradicts itself, or was written by another version.
    """
    try:
        if (file_format := msgspec.json.decode(data, type=_FormatHeader).format) != FORMAT:
            raise BundleError(
                f"its encoder has the format {file_format}, this version reads {FORMAT}",
                where=where,
                fix="tailorbird train",
            )
        return msgspec.json.decode(data, type=Encoder)
    except BundleError as error:
        raise (
            error if error.where else BundleError(error.message, where=where, fix=error.fix)
        ) from None
    except (ValueError, msgspec.DecodeError) as error:
        raise BundleError(f"its encoder cannot be read: {error}", where=where) from error
    except DeclarationError as error:  # a candidate source that is none
        raise BundleError(
            f"its encoder cannot be read: {error.message}", where=where, fix="tailorbird train"
        ) from error


class _FormatHeader(msgspec.Struct):
    format: int = 1
