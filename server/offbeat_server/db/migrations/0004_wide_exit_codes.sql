-- usable from: 1
-- Exit codes that 32 bits with a sign do not hold, such as Windows' 3221225477 (0xC0000005). A column of its own, because
-- to change the type of `exit_code` would rewrite the log, and the program before this one writes that column as it is.

alter table pings add column wide_exit_code bigint;
alter table runs add column wide_exit_code bigint;
