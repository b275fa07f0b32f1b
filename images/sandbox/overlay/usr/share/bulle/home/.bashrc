# Yours to change.
case $- in *i*) ;; *) return ;; esac
HISTCONTROL=ignoreboth
shopt -s histappend checkwinsize
PS1='\[\e[1;34m\]\w\[\e[0m\] \$ '
alias ls='ls --color=auto'
alias ll='ls -l'
alias grep='grep --color=auto'
[ -r /usr/share/bash-completion/bash_completion ] && . /usr/share/bash-completion/bash_completion
