-- The time is the server's, in milliseconds since 1970: the clocks of the hosts need not agree, and a host cannot bring its own.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
