#!lua flags=allow-oom
--[[
Remove a thread's own keys, and what its engines keep on it, unless runs of it are there.

KEYS  1 thread  2 thread runs  3 thread queue
Returns  {'erased'}
--]]
local thread, runs, queue = unpack(KEYS)
forget_thread(thread, runs, queue, '0')
return { 'erased' }
