"""Operations on the lanes of records, shared by the online and the offline path."""
