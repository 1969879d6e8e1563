import pytest

from azaion_imagebuild.rootfs.accounts import Accounts, UnknownAccount

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nazaion:x:1001:1002::/:/bin/false\n"
GROUP = b"root:x:0:\nloader:x:1003:azaion\n"


@pytest.fixture
def accounts() -> Accounts:
    return Accounts.parse(PASSWD, GROUP)


@pytest.mark.parametrize(
    ("owner", "group", "expected"),
    [
        ("azaion", None, (1001, 1002)),
        ("azaion", "loader", (1001, 1003)),
        ("azaion", "7", (1001, 7)),
        ("1001", None, (1001, 1002)),
        ("4242", None, (4242, 4242)),
        ("0", "0", (0, 0)),
    ],
)
def test_owners_are_names_or_numbers_of_the_rootfs(
    accounts: Accounts, owner: str, group: str | None, expected: tuple[int, int]
) -> None:
    assert accounts.resolve(owner, group) == expected


def test_a_missing_name_tells_which_accounts_there_are(accounts: Accounts) -> None:
    with pytest.raises(UnknownAccount, match="no user 'loader'") as caught:
        accounts.resolve("loader", None)
    assert caught.value.known == ("root", "azaion")
    with pytest.raises(UnknownAccount, match="no group 'azaion'"):
        accounts.resolve("azaion", "azaion")


@pytest.mark.parametrize(
    "line",
    [
        b"azaion:x:-1:0::/:",
        b"azaion:x:4294967295:0::/:",
        b"azaion:x",
        b"azaion:x:1 :0::/:",
        b"+azaion:x:1:1::/:",
        b"#azaion:x:1:1::/:",
        b"\xff\xfe:x:1:1::/:",
        b"azaion:x:\xb2:1::/:",
    ],
)
def test_lines_that_cannot_be_accounts_are_passed_over(line: bytes) -> None:
    with pytest.raises(UnknownAccount):
        Accounts.parse(line + b"\n", b"").resolve("azaion", None)
