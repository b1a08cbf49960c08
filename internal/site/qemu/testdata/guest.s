.code16
.globl _start
_start:
  cli
  xorw %ax,%ax
  movw %ax,%ds
  movw %ax,%es
  movw %ax,%ss
  movw $0x7c00,%sp
  sti
  movb $0x80,%dl
  # resume the counter from sector 2
  movl $2,0x7c00+lba-_start
  movb $0x42,%ah
  movw $(0x7c00+dap-_start),%si
  int $0x13
loop:
  incl 0x8000
  movl 0x8000,%eax
  andl $0x3ff,%eax
  addl $8,%eax
  call put
  movl $2,%eax
  call put
  # read a sector of the part that is never written: sector 2048+counter%2048
  movl 0x8000,%eax
  andl $0x7ff,%eax
  addl $2048,%eax
  movl %eax,0x7c00+lba-_start
  movw $0x8200,0x7c00+buf-_start
  movb $0x42,%ah
  movw $(0x7c00+dap-_start),%si
  movb $0x80,%dl
  int $0x13
  movw $0x8000,0x7c00+buf-_start
  jc fail
  testb $0x3f,0x8000
  jnz loop
  movw $0x3f8,%dx
  movb $'.',%al
  outb %al,%dx
  jmp loop
put:
  movl %eax,0x7c00+lba-_start
  movw $0x4300,%ax
  movw $(0x7c00+dap-_start),%si
  movb $0x80,%dl
  int $0x13
  jc fail
  ret
fail:
  movw $0x3f8,%dx
  movb $'!',%al
  outb %al,%dx
  hlt
  jmp fail
  .balign 4
dap: .byte 16,0
  .word 1
buf: .word 0x8000
  .word 0
lba: .long 0
  .long 0
