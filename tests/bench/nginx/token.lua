-- The text of a key, its digest and the ids of events: keys/tokens.py in LuaJIT, over libcrypto,
-- which nginx has loaded for TLS anyway.

local ffi = require 'ffi'

ffi.cdef [[
typedef struct hmac_ctx_st HMAC_CTX;
typedef struct evp_md_st EVP_MD;
typedef struct engine_st ENGINE;
HMAC_CTX *HMAC_CTX_new(void);
int HMAC_Init_ex(HMAC_CTX *ctx, const void *key, int len, const EVP_MD *md, ENGINE *engine);
int HMAC_Update(HMAC_CTX *ctx, const char *data, size_t len);
int HMAC_Final(HMAC_CTX *ctx, unsigned char *out, unsigned int *len);
const EVP_MD *EVP_sha256(void);
int RAND_bytes(unsigned char *buf, int num);
unsigned char *ngx_hex_dump(unsigned char *dst, const unsigned char *src, size_t len);
]]

local C = ffi.C
local byte, sub = string.byte, string.sub
local floor = math.floor
local re_find = ngx.re.find

local BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
local CHARACTERS = 56
local SHAPE = [[^ks_(?:live|test)_[0-9]{2}[0-9A-Za-z]{46}$]]

local _M = {}

local hmac = C.HMAC_CTX_new()
local digest_bytes = ffi.new('unsigned char[32]')
local digest_length = ffi.new('unsigned int[1]')
local digest_hex = ffi.new('unsigned char[64]')

function _M.use(pepper)
  assert(C.HMAC_Init_ex(hmac, pepper, #pepper, C.EVP_sha256(), nil) == 1)
end

-- HMAC-SHA256 under the pepper, 64 hex digits. The context keeps the pepper's state.
function _M.digest(text)
  C.HMAC_Init_ex(hmac, nil, 0, nil, nil)
  C.HMAC_Update(hmac, text, #text)
  C.HMAC_Final(hmac, digest_bytes, digest_length)
  C.ngx_hex_dump(digest_hex, digest_bytes, 32)
  return ffi.string(digest_hex, 64)
end

-- Whether the text can be a key: its shape, then the CRC-32 in its last six characters.
function _M.is_key(text)
  if #text ~= CHARACTERS or not re_find(text, SHAPE, 'jo') then return false end
  local rest = ngx.crc32_long(sub(text, 1, CHARACTERS - 6))
  for i = CHARACTERS, CHARACTERS - 5, -1 do
    local digit = rest % 62
    if byte(text, i) ~= byte(BASE62, digit + 1) then return false end
    rest = (rest - digit) / 62
  end
  return true
end

local POOL = 4000  -- random bytes drawn at once, ten for each id
local random = ffi.new('unsigned char[?]', POOL)
local used = POOL
local id = ffi.new('unsigned char[16]')
local text = ffi.new('unsigned char[36]')
text[8], text[13], text[18], text[23] = 45, 45, 45, 45

-- A UUID of version 7 (RFC 9562 section 5.7).
function _M.event_id()
  if used == POOL then
    C.RAND_bytes(random, POOL)
    used = 0
  end
  local ms = floor(ngx.now() * 1000)
  for i = 5, 0, -1 do
    id[i] = ms % 256
    ms = floor(ms / 256)
  end
  ffi.copy(id + 6, random + used, 10)
  used = used + 10
  id[6] = 0x70 + id[6] % 16
  id[8] = 0x80 + id[8] % 64
  C.ngx_hex_dump(text, id, 4)
  C.ngx_hex_dump(text + 9, id + 4, 2)
  C.ngx_hex_dump(text + 14, id + 6, 2)
  C.ngx_hex_dump(text + 19, id + 8, 2)
  C.ngx_hex_dump(text + 24, id + 10, 6)
  return ffi.string(text, 36)
end

return _M
