#!lua
--[[
Move a thread at rest, with all its runs, to the keys of its bucket: version 1 kept it under its own hash tag.

For one server alone, as all stores of version 1 are: the keys are in two slots.

KEYS  1 thread runs, as of version 1  2 thread runs
ARGV  1 what the keys of version 1 begin with  2 what the new ones begin with
      3 what the indexes of version 1 begin with  4 what its bucket's begin with  5 run_ids, between spaces
Returns
  {'moved'}
  {'held'}                       a run of it is unfinished
--]]
local old_runs, new_runs = unpack(KEYS)
local old, new, old_indexes, new_indexes, named = unpack(ARGV)

local runs, known = {}, {}
local function add(run_id)
  if not known[run_id] then
    known[run_id] = true
    runs[#runs + 1] = run_id
  end
end
for _, run_id in ipairs(redis.call('ZRANGE', old_runs, 0, -1)) do
  add(run_id)
end
for run_id in string.gmatch(named, '%S+') do
  add(run_id)
end
local function unique_of(run_id)
  return string.match(run_id, '_(.+)$')
end
for _, run_id in ipairs(runs) do
  if ACTIVE[redis.call('HGET', old .. ':' .. unique_of(run_id) .. ':record', 'status') or ''] then
    return { 'held' }
  end
end

local function rename(suffix)
  if redis.call('EXISTS', old .. suffix) == 1 then
    redis.call('RENAME', old .. suffix, new .. suffix)
  end
end
for _, run_id in ipairs(runs) do
  local own = ':' .. unique_of(run_id)
  for _, kind in ipairs({ ':record', ':log', ':snapshot', ':checkpoint' }) do
    rename(own .. kind)
  end
  local record = new .. own .. ':record'
  local idem = redis.call('HGET', record, 'idem')
  if idem and string.sub(idem, 1, #old) == old then
    rename(string.sub(idem, #old + 1))
    redis.call('HSET', record, 'idem', new .. string.sub(idem, #old + 1))
  end
  for _, kind in ipairs({ ':active', ':recent', ':compact' }) do
    local score = redis.call('ZSCORE', old_indexes .. kind, run_id)
    if score then
      redis.call('ZADD', new_indexes .. kind, score, run_id)
      redis.call('ZREM', old_indexes .. kind, run_id)
    end
  end
end
for _, field in ipairs(redis.call('HKEYS', old .. ':thread')) do
  if string.match(field, '^memory:') then
    rename(':' .. field)
  end
end
if redis.call('EXISTS', new_runs) == 1 then -- somebody who did not know of the old keys began anew
  local flat = redis.call('ZRANGE', old_runs, 0, -1, 'WITHSCORES')
  for i = 1, #flat, 2 do
    redis.call('ZADD', new_runs, flat[i + 1], flat[i])
  end
  redis.call('DEL', old_runs, old .. ':thread', old .. ':queue')
else
  rename(':runs')
  rename(':thread')
  rename(':queue')
end
return { 'moved' }
