"""Operations act on runs for users, operators and sweepers: transitions, index writes, messages in order."""
